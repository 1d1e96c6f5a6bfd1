"""The Ray adapter: agents, placement groups, and the controller process that runs the scheduling loop."""
