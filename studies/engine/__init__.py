"""The engine: sessions that run what a study lacks, on Ray."""
