//! Charts as SVG, stretched to the width of the page.
//!
//! Labels are HTML beside the SVG, so that they keep their size on a phone. Colours come from CSS
//! classes, because the content security policy forbids inline styles. A plotting library isn't
//! used: it would write labels and colours into the picture, which then could follow neither the
//! theme nor the width. Each chart has a sentence that describes it, and a table with its numbers.

use std::fmt::Write;

use maud::{Markup, PreEscaped, html};
use time::OffsetDateTime;
use time::macros::format_description;

/// One kind of value in a chart.
pub struct Series {
    pub name: &'static str,
    /// Of bars: `f1` to `f4`. Of lines: `l1` or `l2`, with the key `f1` or `f3`.
    pub class: &'static str,
    /// One for each step; `None`: there is none.
    pub values: Vec<Option<f64>>,
}

/// What a chart shows.
pub struct Chart<'a> {
    pub title: &'a str,
    /// The shape in a sentence, for those who can't see it.
    pub sentence: &'a str,
    /// The beginning of each step.
    pub steps: &'a [OffsetDateTime],
    pub series: &'a [Series],
    /// Writes a value.
    pub unit: fn(f64) -> String,
}

/// The width of a step, in the picture's units; the height of the picture.
const STEP: f64 = 10.0;
const HEIGHT: f64 = 100.0;

impl Chart<'_> {
    /// Values stacked on each other, step by step.
    pub fn bars(&self) -> Markup {
        let sum = |n: usize| {
            self.series
                .iter()
                .filter_map(|series| series.values[n])
                .sum::<f64>()
        };
        let top = nice((0..self.steps.len()).map(sum).fold(0.0, f64::max));
        let mut shapes = grid(self.width(), 2);
        for n in 0..self.steps.len() {
            let mut y = HEIGHT;
            for series in self.series {
                let Some(value) = series.values[n].filter(|value| *value > 0.0) else {
                    continue;
                };
                // What is there at all can be seen.
                let height = (value / top * HEIGHT).max(0.8);
                y = (y - height).max(0.0);
                let x = n as f64 * STEP + 1.5;
                let _ = write!(
                    shapes,
                    r#"<rect class="{}" x="{x}" y="{y:.1}" width="7" height="{height:.1}"/>"#,
                    series.class
                );
            }
        }
        let axis = [top, top / 2.0, 0.0].map(self.unit);
        self.figure(&axis, &shapes)
    }

    /// Lines on a logarithmic axis, the first with its area.
    pub fn lines(&self) -> Markup {
        let values = || {
            self.series
                .iter()
                .flat_map(|series| series.values.iter().flatten())
        };
        let positive = || values().copied().filter(|value| *value > 0.0);
        let low = positive()
            .fold(f64::INFINITY, f64::min)
            .min(100.0)
            .log10()
            .floor();
        let high = positive()
            .fold(0.0, f64::max)
            .max(100.0)
            .log10()
            .ceil()
            .max(low + 1.0);
        let decades = (high - low).clamp(1.0, 8.0);
        let y = |value: f64| {
            HEIGHT - ((value.max(1e-9).log10() - low) / decades).clamp(0.0, 1.0) * HEIGHT
        };
        let mut shapes = grid(self.width(), decades as usize);
        self.draw(&mut shapes, y);
        let axis: Vec<String> = (0..=decades as i32)
            .rev()
            .map(|n| (self.unit)(10_f64.powi(low as i32 + n)))
            .collect();
        self.figure(&axis, &shapes)
    }

    /// Lines on an axis that begins at zero, the first with its area.
    pub fn levels(&self) -> Markup {
        let values = self.series.iter().flat_map(|series| &series.values);
        let top = nice(values.flatten().copied().fold(0.0, f64::max));
        let mut shapes = grid(self.width(), 2);
        self.draw(&mut shapes, |value| {
            HEIGHT - (value / top).clamp(0.0, 1.0) * HEIGHT
        });
        self.figure(&[top, top / 2.0, 0.0].map(self.unit), &shapes)
    }

    /// Draws the series as lines. `y`: the height of a value.
    fn draw(&self, shapes: &mut String, y: impl Fn(f64) -> f64) {
        for (at, series) in self.series.iter().enumerate() {
            for run in runs(&series.values) {
                let mut path = String::new();
                for (n, (step, value)) in run.iter().enumerate() {
                    let x = (*step as f64 + 0.5) * STEP;
                    let _ = write!(
                        path,
                        "{}{x} {:.1}",
                        if n == 0 { 'M' } else { 'L' },
                        y(*value)
                    );
                }
                let (Some(first), Some(last)) = (run.first(), run.last()) else {
                    continue;
                };
                let x = |step: usize| (step as f64 + 0.5) * STEP;
                if at == 0 {
                    let _ = write!(
                        shapes,
                        r#"<path class="area" d="{path}V{HEIGHT}H{}Z"/>"#,
                        x(first.0)
                    );
                }
                // A single value is a point: a line of no length is drawn by nobody.
                let end = if run.len() == 1 {
                    format!("H{}", x(last.0) + 4.0)
                } else {
                    String::new()
                };
                let _ = write!(
                    shapes,
                    r#"<path class="{}" d="{path}{end}"/>"#,
                    series.class
                );
            }
        }
    }

    fn width(&self) -> f64 {
        self.steps.len().max(1) as f64 * STEP
    }

    fn figure(&self, axis: &[String], shapes: &str) -> Markup {
        let key = |series: &Series| match series.class {
            "l1" => "f1",
            "l2" => "f3",
            class => class,
        };
        html! {
            figure class="chart" {
                figcaption {
                    h2 { (self.title) }
                    @for series in self.series {
                        span class="key" {
                            svg viewBox="0 0 10 10" aria-hidden="true" { rect class=(key(series)) width="10" height="10" rx="2" {} }
                            (series.name)
                        }
                    }
                }
                div class="y" aria-hidden="true" { @for label in axis { span { (label) } } }
                svg viewBox={ "0 0 " (self.width()) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(self.sentence) {
                    (PreEscaped(shapes))
                }
                div class="x" aria-hidden="true" { @for label in self.times() { span { (label) } } }
            }
            (self.table())
        }
    }

    /// Four times below the chart, and now.
    fn times(&self) -> Vec<String> {
        let many = self.steps.len();
        let mut labels: Vec<_> = (0..4)
            .map(|n| n * many / 4)
            .filter_map(|n| self.steps.get(n).map(|at| self.time(*at)))
            .collect();
        labels.dedup();
        labels.push("now".to_owned());
        labels
    }

    fn time(&self, at: OffsetDateTime) -> String {
        let step = self
            .steps
            .get(1)
            .map_or(0, |second| (*second - self.steps[0]).whole_hours());
        let format = match step {
            0..6 => format_description!("[hour]:[minute]"),
            _ => format_description!("[day padding:none] [month repr:short]"),
        };
        at.format(format).unwrap_or_default()
    }

    fn table(&self) -> Markup {
        let filled = (0..self.steps.len()).rev().filter(|n| {
            self.series
                .iter()
                .any(|series| series.values[*n].is_some_and(|value| value > 0.0))
        });
        let day = format_description!("[day padding:none] [month repr:short] [hour]:[minute]");
        html! {
            details {
                summary { "Show as a table" }
                div class="scroll" tabindex="0" role="region" aria-label={ (self.title) " as a table" } {
                    table class="tight num" {
                        thead { tr { th { "From" } @for series in self.series { th class="right" { (series.name) } } } }
                        tbody {
                            @for n in filled {
                                tr {
                                    td { (self.steps[n].format(day).unwrap_or_default()) }
                                    @for series in self.series {
                                        td class="right" { @match series.values[n] { Some(value) => ((self.unit)(value)), None => "—" } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A small one without labels, for a row of a list: delivered, and given up on top.
pub fn spark(pairs: &[(i64, i64)]) -> Markup {
    let top = pairs
        .iter()
        .map(|(good, bad)| good + bad)
        .max()
        .unwrap_or(0);
    if top == 0 {
        return html! { small { "nothing" } };
    }
    let height = |value: i64| value as f64 / top as f64 * 19.0;
    // One path for each colour: a list has fifty of these.
    let (mut good_bars, mut bad_bars) = (String::new(), String::new());
    for (n, (good, bad)) in pairs.iter().enumerate() {
        let x = n * 4;
        let (good, bad) = (
            height(*good),
            if *bad > 0 { height(*bad).max(1.0) } else { 0.0 },
        );
        for (bars, height, y) in [
            (&mut good_bars, good, 20.0 - good),
            (&mut bad_bars, bad, 20.0 - good - bad),
        ] {
            if height > 0.0 {
                let _ = write!(bars, "M{x} {:.1}h3v{height:.1}h-3z", y.max(0.0));
            }
        }
    }
    html! {
        svg class="spark" viewBox={ "0 0 " (pairs.len() * 4) " 20" } preserveAspectRatio="none" aria-hidden="true" {
            path class="f1" d=(good_bars) {}
            @if !bad_bars.is_empty() { path class="f2" d=(bad_bars) {} }
        }
    }
}

fn grid(width: f64, parts: usize) -> String {
    let mut lines = String::new();
    for n in 0..=parts {
        let y = n as f64 * HEIGHT / parts as f64;
        let _ = write!(lines, r#"<path class="grid" d="M0 {y:.1}H{width}"/>"#);
    }
    lines
}

/// The parts of a series without gaps: steps and values.
fn runs(values: &[Option<f64>]) -> Vec<Vec<(usize, f64)>> {
    let mut runs = vec![Vec::new()];
    for (n, value) in values.iter().enumerate() {
        match (value, runs.last_mut()) {
            (Some(value), Some(run)) => run.push((n, *value)),
            (None, Some(run)) if !run.is_empty() => runs.push(Vec::new()),
            _ => {}
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// The next round number above: 1, 2, 5 or 10 and so on, even so that half of it is round, too.
fn nice(most: f64) -> f64 {
    if most <= 2.0 {
        return 2.0;
    }
    let unit = 10_f64.powf(most.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0];
    let above = steps
        .into_iter()
        .map(|step| step * unit)
        .find(|top| *top >= most);
    above.unwrap_or(10.0 * unit)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::console::moments::number;

    #[test]
    fn the_axis_ends_above_the_most() {
        for (most, top) in [
            (0.0, 2.0),
            (2.0, 2.0),
            (3.0, 3.0),
            (57.0, 60.0),
            (1_396.0, 1_500.0),
            (99_999.0, 100_000.0),
        ] {
            assert_eq!(nice(most), top, "{most}");
        }
    }

    #[test]
    fn a_chart_of_nothing_or_of_one_value_is_drawn() {
        let steps = [datetime!(2026-11-26 10:00 UTC)];
        for values in [vec![None], vec![Some(0.0)], vec![Some(1e12)]] {
            let series = [Series {
                name: "half",
                class: "l1",
                values,
            }];
            let chart = Chart {
                title: "t",
                sentence: "s",
                steps: &steps,
                series: &series,
                unit: |n| number(n as i64),
            };
            for drawn in [chart.bars(), chart.lines(), chart.levels()] {
                assert!(
                    !drawn.0.contains("NaN") && !drawn.0.contains("inf"),
                    "{}",
                    drawn.0
                );
            }
        }
        assert_eq!(
            runs(&[None, Some(1.0), None, Some(2.0), Some(3.0)]),
            [vec![(1, 1.0)], vec![(3, 2.0), (4, 3.0)]]
        );
    }
}
