#![no_main]

fuzz::target!("wmi_path");
