//! The real server, as its own process on loopback, spoken to as its users do: no root, no DHCP.

#[path = "../support/postgres.rs"]
mod postgres_server;

#[path = "../support/nginx.rs"]
mod nginx;

#[path = "../support/object_store.rs"]
mod object_store;

mod access;
mod agent;
mod api;
mod audit;
mod backup;
mod burn_in;
mod caches;
mod client;
mod demo;
mod durability;
mod epoch;
mod http;
mod images;
mod inventory;
mod keep;
mod layout;
mod objects;
mod privileges;
mod recall;
mod registry;
mod rescue;
mod restart;
mod shared;
mod site;
mod tls;
mod unlock;
mod why;
mod wipe;
