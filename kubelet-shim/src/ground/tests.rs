//! Volumes: layout and refusals.
