#![no_main]

fuzz::target!("vhdx_write");
