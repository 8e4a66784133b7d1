//! DHCPv4 messages.
