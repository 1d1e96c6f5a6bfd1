"""What `up` prints at the end: where to go, and what to try next."""

from deploy.database import first_password
from deploy.instance import Instance
from deploy.progress import say


def welcome(instance: Instance) -> None:
    say()
    say(f"  Platform   {instance.public_url}")
    say(f"  JupyterHub {instance.hub_url}")
    if instance.simulate:
        say(f"  GPUs       simulated ({instance.simulate}): no NVIDIA GPU is used")
    password = first_password(instance)
    if password:
        say(f"  Sign in as admin with the generated password {password} (to be changed at the first sign-in)")
    say()
    say("  Try next:")
    say(f"    .venv/bin/remotegpu login {instance.public_url} --username admin")
    say("    .venv/bin/remotegpu admin price set A100-80GB 2.50")
    say("    .venv/bin/remotegpu admin customer create 'Lovelace Labs' --owner ada --balance 100")
