"""The controller as it is, with an agent on the hosts that stands in for a real host."""

from cluster.controller import main
from tests.process.echo_agent import EchoAgent

if __name__ == "__main__":
    main(EchoAgent)
