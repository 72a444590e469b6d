"""From a suite to a leaderboard: spec, plan, runner, record, leaderboard."""
