//! Tells what it was configured with, and goes on to tell when a file of its configuration changes.

use std::env;
use std::fs;
use std::io;
use std::thread::sleep;
use std::time::Duration;

/// The folder of the ConfigMap, the Secret and the pod's labels: one projected volume.
const CONFIG: &str = "/config";

/// What the pod has to speak to the API, if it is given that.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn main() -> io::Result<()> {
    let color = env::var("COLOR").unwrap_or_else(|_| "no color".to_owned());
    println!("COLOR is {color}, and stays so until a restart");
    let password = env::var("PASSWORD").unwrap_or_default();
    let file = read("password")?;
    let same = if password == file {
        "the same"
    } else {
        "another"
    };
    // Never the password itself: what a program writes is in its log.
    println!(
        "the password has {} letters, and {same} in its file",
        password.len()
    );
    let namespace = fs::read_to_string(format!("{ACCOUNT}/namespace"))?;
    let token = fs::read_to_string(format!("{ACCOUNT}/token"))?;
    println!(
        "a token of {} parts is for namespace {namespace}",
        token.split('.').count()
    );
    let mut seen = (String::new(), String::new());
    loop {
        let now = (read("greeting")?, read("labels")?);
        if now.0 != seen.0 {
            println!("greeting: {}", now.0.trim_end());
        }
        if now.1 != seen.1 {
            println!("labels: {}", now.1.replace('\n', " "));
        }
        seen = now;
        sleep(LOOK_EVERY);
    }
}

fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(format!("{CONFIG}/{name}"))
}
