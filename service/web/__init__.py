"""The admin page: what the service is doing, why a film is where it is, and what to do about it.

In the order in which a request passes: `app` wires everything, `guard` sets headers and limits and lets nobody in without a
session, `sessions` signs cookies and locks out guessers, `credentials` knows the administrator's password, `pages` answers,
`overview` and `system` read what is shown, `display` puts it into words, `health` tells monitors how things stand.

Rendered on the server; the few lines of script only refresh and format. No page shows a patient's identifier.
"""
