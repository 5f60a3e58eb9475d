#![no_main]

fuzz::target!("vhd_open_read");
