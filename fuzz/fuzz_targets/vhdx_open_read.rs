#![no_main]

fuzz::target!("vhdx_open_read");
