"""The admin page: what the service is doing, why a film is where it is, and what to do about it.

In the order in which a request passes: `app` wires everything, `guard` sets headers and limits and lets pass whom `permissions` names,
`login` lets people in and out (`oidc` asks an identity provider, `sessions` signs cookies, `credentials` makes the first
administrator), `pages` answers, `overview` and `system` read what is shown, `masking` hides whose film it is, `display` puts it into
words, `faults` says what cannot be done, `health` tells monitors how things stand.

Rendered on the server; the few lines of script only refresh and format. No page shows a patient's name or number.
"""
