#![no_main]

fuzz::target!("wsman_response");
