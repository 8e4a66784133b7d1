//! What the agent of an ordinary server tells of it.

use crate::life::mac;
use kaltstart_protocol::contents::Contents;
use kaltstart_protocol::facts::{
    Cpu, Disk, Facts, Firmware, Module, Neighbour, Nic, PciDevice, Processor, System,
};

/// The hardware of a server with two processors, sixteen modules, four interfaces and eight disks.
pub(crate) fn facts(number: u32) -> Facts {
    let neighbour = |port: u8| Neighbour {
        switch: "leaf-07.example".into(),
        chassis: "02:00:00:00:07:01".into(),
        port: format!("Ethernet{port}"),
        port_description: format!("node-{number} port {port}"),
        vlan: Some(10),
    };
    let nic = |port: u8| Nic {
        name: format!("enp59s0f{port}"),
        mac: mac(number, port),
        driver: "ice".into(),
        link: port < 2,
        speed_mbit: Some(25_000),
        carrier_changes: 2,
        permanent_mac: Some(mac(number, port)),
        neighbour: (port < 2).then(|| neighbour(port)),
        firmware: "4.40 0x8001c967 1.3534.0".into(),
    };
    let disk = |slot: u32| Disk {
        name: format!("nvme{slot}n1"),
        serial: format!("S6CKNE0{number:06}{slot}"),
        wwn: format!("eui.002538{number:06x}{slot:04x}"),
        model: "SAMSUNG MZQL23T8HCLS-00A07".into(),
        firmware: "GDC5902Q".into(),
        size: 3_840_755_982_336,
        sector_size: 512,
        transport: "nvme".into(),
        path: format!("pci0000:64/0000:64:0{slot}.0/0000:65:00.0/nvme/nvme{slot}"),
        holds: Some(Contents::default()),
        ..Disk::default()
    };
    let module = |slot: u32| Module {
        slot: format!("DIMM_{slot}"),
        size: 32 << 30,
        speed: 4_800,
        maker: "Samsung".into(),
        part: "M321R4GA3BB6-CQKET".into(),
        serial: format!("80CE012247{number:06X}{slot:02X}"),
        ecc: Some(true),
    };
    let processor = |socket: u32| Processor {
        socket: format!("CPU{socket}"),
        model: "Intel(R) Xeon(R) Gold 6430".into(),
        cores: 32,
        threads: 64,
        mhz: 2_100,
    };
    let device = |slot: u32| PciDevice {
        address: format!("0000:{slot:02x}:00.0"),
        class: "010802".into(),
        id: "144d:a80a".into(),
        driver: "nvme".into(),
    };
    Facts {
        system: System {
            vendor: "Dell Inc.".into(),
            product: "PowerEdge R660".into(),
            serial: format!("SN{number:05}"),
            uuid: format!("4c4c4544-0000-4000-8000-{number:012x}"),
            bios_version: "2.1.5".into(),
            chassis_serial: format!("CH{number:05}"),
            asset_tag: format!("inventory {number}"),
            board: "0R5JJC".into(),
            board_serial: format!(".SN{number:05}.CN0000000000."),
        },
        cpu: Cpu { model: "Intel(R) Xeon(R) Gold 6430".into(), threads: 128, architecture: "x86_64".into() },
        processors: (1..=2).map(processor).collect(),
        modules: (1..=16).map(module).collect(),
        memory_bytes: 512 << 30,
        firmware: Firmware::Uefi,
        secure_boot: Some(true),
        nics: (0..4).map(nic).collect(),
        boot_nic: Some("enp59s0f0".into()),
        disks: (0..8).map(disk).collect(),
        devices: (0..16).map(device).collect(),
        tpm: Some("2".into()),
        kernel: "6.1.0-40-amd64".into(),
        ..Facts::default()
    }
}
