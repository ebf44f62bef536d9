"""The demo: adapters trained for this project, the data they learned from, and what they were measured to do."""
