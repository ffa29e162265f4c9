"""`carpus web`: serve the admin page until told to stop."""

from pathlib import Path

import click

from service.commands import config_option


@click.command()
@click.option(
    "--hash-password", is_flag=True, help="Ask for a password, print its hash for `web.password_hash`, and stop."
)
@config_option
def web(config: Path | None, hash_password: bool) -> None:
    """Serve the admin page, health checks and Prometheus metrics until SIGTERM.

    Address and port are `web.host` and `web.port`. Without `web.password_hash` a password is made at the first start, printed
    once and kept in web/first-password.txt of the data directory.
    """
    import signal

    import uvicorn
    from argon2 import PasswordHasher

    from service import db, log, settings
    from service.queue.jobs import Jobs
    from service.trust.tls import web_context
    from service.web.app import create_app
    from service.web.credentials import Credentials

    if hash_password:
        click.echo(PasswordHasher().hash(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)))
        return
    loaded = settings.load(config)
    log.configure(loaded.log_level, as_json=loaded.log_json)
    engine = db.connect(loaded.resolved_database_url)
    db.migrate(engine)
    app = create_app(loaded, Jobs(engine, process="web"), Credentials.open(loaded))
    if app.state.first_password is not None:
        click.echo(f"admin page: log in as {loaded.web.administrator} with {app.state.first_password} (shown once)")
    page = loaded.web
    secure = web_context(page.certificate, page.key) if page.certificate and page.key else None
    log.get_logger().info("admin page", host=page.host, port=page.port, tls=secure is not None)
    # uvicorn ends cleanly on SIGTERM and then sends the signal again, which would make a clean stop look like a death.
    signal.signal(signal.SIGTERM, lambda *_: None)
    # The pages log what people do; the access log of the server would only repeat what monitors ask.
    uvicorn.run(
        app,
        host=page.host,
        port=page.port,
        ssl_context_factory=(lambda _config, _default: secure) if secure else None,
        # The library would believe whoever calls from loopback.
        proxy_headers=bool(page.trusted_proxies),
        forwarded_allow_ips=list(page.trusted_proxies),
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
