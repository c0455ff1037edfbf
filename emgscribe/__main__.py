from emgscribe.cli import run

run()
