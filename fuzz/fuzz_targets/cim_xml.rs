#![no_main]

fuzz::target!("cim_xml");
