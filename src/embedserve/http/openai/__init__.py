"""The OpenAI-compatible dialect (protocol notes 2.2, 3.1, 3.3)."""
