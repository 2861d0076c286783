"""What the agent says: /status, /metrics and the probes, composed purely in `report`; and its log."""
