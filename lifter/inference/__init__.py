"""From keypoints to poses: whole sequences, files, live streams, diffusion, and models for other programs."""
