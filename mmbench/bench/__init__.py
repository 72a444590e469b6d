"""From a suite to a leaderboard: spec, plan, run, record, leaderboard."""
