//! One TFTP transfer.
