"""User profiles: labels of a user give weights over the heads of a run, and with these a ranking of responses."""
