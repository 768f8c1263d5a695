//! Writes the sample page of the browser test to the file named on the command line, to be looked at.

#[path = "../tests/sample/mod.rs"]
mod sample;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: sample_page FILE.html")?;
    std::fs::write(path, hone_report::render(&sample::report())?)?;
    Ok(())
}
