//! A node's life.
