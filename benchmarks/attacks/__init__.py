"""Attack a running installation through its sockets and say what it did about it.

    python -m benchmarks.attacks --output benchmarks/attacks.json

`house` runs `carpus scp` and `carpus web` and watches memory and the C-ECHO of a known peer, plain and over TLS; `dicom` and `pages`
hold the attacks, each a function that returns what the service answered and raises when that was not a refusal.
"""
