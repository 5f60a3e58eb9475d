#![no_main]

fuzz::target!("vmcx_read");
