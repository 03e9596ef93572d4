"""Anthropic Messages: requests, answers, and how its conversations go on."""
