"""One-Step Flow Policy: an action chunk in one network call, trained without a teacher model."""
