"""``python -m ssl_cert_server`` is the command line itself."""

from ssl_cert_server.cli.main import main

main()
