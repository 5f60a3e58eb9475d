#![no_main]

fuzz::target!("vhdx_log_replay");
