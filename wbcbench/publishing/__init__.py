"""Submissions and their verification, merged stores, and published boards."""
