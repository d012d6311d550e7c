//! File systems that the machine's own tools make and mount, in upstream's words where they fail.

use std::path::Path;
use std::process::{Command, Output};

use super::Error;

fn run(command: &str, arguments: &[&str]) -> Result<Output, Error> {
    let output = Command::new(command).args(arguments).output();
    output.map_err(|error| Error::Refused(format!("cannot run {command}: {error}")))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// `mount -t kind -o options source dir`.
pub fn mount(dir: &Path, kind: &str, source: &str, options: &[String], device: bool) -> Result<(), Error> {
    let mut options = options.to_vec();
    if device {
        if !options.iter().any(|option| option == "ro") {
            format(source, kind)?;
        }
        options.push("defaults".into());
    }
    let (options, dir) = (options.join(","), dir.to_string_lossy());
    let mut arguments = vec!["-t", kind];
    if !options.is_empty() {
        arguments.extend(["-o", &options]);
    }
    arguments.extend([source, &*dir]);
    let output = run("mount", &arguments)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "mount failed: {}\nMounting command: mount\nMounting arguments: {}\nOutput: {}\n",
            output.status.to_string().replace("exit status: ", "exit status "),
            arguments.join(" "),
            said(&output)
        ))),
    }
}

/// Gives a device a file system, unless something is on it.
fn format(device: &str, kind: &str) -> Result<(), Error> {
    let probe = run("blkid", &["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device])?;
    match probe.status.code() {
        Some(0) => return Ok(()),
        // Nothing was found on it.
        Some(2) => {}
        _ => return Err(Error::Refused(format!("failed to get disk format of {device}: {}", said(&probe)))),
    }
    let force: &[&str] = match kind {
        "ext3" | "ext4" => &["-F", "-m0"],
        "xfs" => &["-f"],
        _ => &[],
    };
    let output = run(&format!("mkfs.{kind}"), &[force, &[device]].concat())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "format of disk {device:?} failed: type:({kind:?}) errcode:({}) output:({}) ",
            output.status,
            said(&output)
        ))),
    }
}
