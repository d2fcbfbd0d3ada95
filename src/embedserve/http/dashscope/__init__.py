"""The DashScope-native dialect (protocol notes 2.3, 3.2, 3.3)."""
