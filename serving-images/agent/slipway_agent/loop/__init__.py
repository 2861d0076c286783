"""The shell: it reads agent.json, looks at disk and server, has `plan` decide, acts and reports. All state is here."""
