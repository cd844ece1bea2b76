"""What each job does, on either engine."""
