"""The parts of the report writer; `flows.report` is the entry."""
