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
    from service.jobs import Jobs
    from service.web.app import create_app
    from service.web.credentials import Credentials

    if hash_password:
        click.echo(PasswordHasher().hash(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)))
        return
    loaded = settings.load(config)
    log.configure(loaded.log_level, as_json=loaded.log_json)
    engine = db.connect(loaded.resolved_database_url)
    db.migrate(engine)
    credentials = Credentials.open(loaded)
    if credentials.first_password is not None:
        click.echo(f"admin page: log in as {credentials.administrator} with {credentials.first_password} (shown once)")
    app = create_app(loaded, Jobs(engine, process="web"), credentials)
    log.get_logger().info("admin page", host=loaded.web.host, port=loaded.web.port)
    # uvicorn ends cleanly on SIGTERM and then sends the signal again, which would make a clean stop look like a death.
    signal.signal(signal.SIGTERM, lambda *_: None)
    # The pages log what people do; the access log of the server would only repeat what monitors ask.
    uvicorn.run(
        app,
        host=loaded.web.host,
        port=loaded.web.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
