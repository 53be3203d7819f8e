//! A job: `STEPS` lines of work, and then the exit code `EXIT_CODE`.

use std::error::Error;

use wasip2::cli::exit::exit_with_code;

fn main() -> Result<(), Box<dyn Error>> {
    let steps: u64 = number("STEPS", 3)?;
    let code: u8 = number("EXIT_CODE", 0)?;
    let mut primes = 0;
    for step in 1..=steps {
        let end = step * 1000;
        primes += (end - 1000..end)
            .filter(|candidate| is_prime(*candidate))
            .count();
        println!("step {step} of {steps}: {primes} primes below {end}");
    }
    if code != 0 {
        eprintln!("giving up with exit code {code}");
        // What `std` offers becomes 0 or 1 in WASI 0.2, whose first `exit` only knew success and failure.
        exit_with_code(code);
    }
    Ok(())
}

fn number<T: std::str::FromStr>(name: &str, otherwise: T) -> Result<T, Box<dyn Error>>
where
    T::Err: Error + 'static,
{
    match std::env::var(name) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(otherwise),
    }
}

fn is_prime(candidate: u64) -> bool {
    candidate > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= candidate)
            .all(|divisor| !candidate.is_multiple_of(divisor))
}
