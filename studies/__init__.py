"""What is run: study definitions, and the engine that places, resumes and records their trials."""
