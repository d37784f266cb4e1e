//! Figures: medians, percentiles, and plain tables of them.

/// The value that half of them do not exceed.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// The smallest value that so many of a hundred do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let nth = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(nth).copied().unwrap_or(f64::NAN)
}

/// Prints rows below their heads, the first column to the left, all others to the right.
pub fn print(title: &str, heads: &[&str], rows: &[Vec<String>]) {
    println!("\n{title}");
    let heads: Vec<String> = heads.iter().map(|head| head.to_string()).collect();
    let all = || std::iter::once(&heads).chain(rows);
    let wide = |column: usize| all().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(wide).collect();
    for row in all() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// Prints one ratio, with the least and the greatest of the rounds, beside what it is bound to.
pub fn ratio(what: &str, of_rounds: &[f64], bound: &str) {
    let least = of_rounds.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = of_rounds.iter().copied().fold(0.0, f64::max);
    let spread = if of_rounds.len() > 1 { format!("({least:.3} to {greatest:.3})") } else { String::new() };
    println!("ratio  {what:<58} {:>6.3}  {spread:<18} bound {bound}", median(of_rounds));
}
