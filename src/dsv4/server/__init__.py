"""OpenAI's and Anthropic's APIs over an engine: JSON → ids → job; tokens → deltas → events."""
