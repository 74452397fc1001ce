//! A picture of the UDP rates over the number of connections, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::gateway::Kind;
use super::samples::Samples;
use super::{flows_name, udp_name};

const SIZE: (u32, u32) = (960, 420);

/// Draws the rates of all gateways, paced on the left and flooded on the right.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write(path: &Path, samples: &Samples, gateways: &[Kind], flows: &[u32]) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = root.fill(&WHITE).and_then(|()| {
        let panels = root.split_evenly((1, 2));
        panel(&panels[0], "64-byte UDP, loss under 0.5 %", "paced", samples, gateways, flows)?;
        panel(&panels[1], "flooded with three times that", "flood", samples, gateways, flows)?;
        root.present()
    });
    // Its errors borrow the drawing.
    drawn.map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn panel<'a>(
    area: &Area<'a>,
    title: &str,
    what: &str,
    samples: &Samples,
    gateways: &[Kind],
    flows: &[u32],
) -> Drawn<'a> {
    let lines: Vec<(Kind, Vec<(f64, f64)>)> = gateways
        .iter()
        .map(|g| {
            let rate = |n: &u32| Some((f64::from(*n), samples.median(&udp_name(what, *n), "Mpps", *g)?));
            (*g, flows.iter().filter_map(rate).collect())
        })
        .filter(|(_, line): &(_, Vec<_>)| !line.is_empty())
        .collect();
    let highest = lines.iter().flat_map(|(_, l)| l).map(|(_, rate)| *rate).fold(0.1, f64::max);
    let most = flows.iter().copied().max().unwrap_or(1).max(2);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(44)
        .build_cartesian_2d((1.0..f64::from(most)).log_scale(), 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("connections")
        .y_desc("million packets a second")
        .x_label_formatter(&|n| flows_name(*n as u32))
        .draw()?;
    for (i, (gateway, line)) in lines.into_iter().enumerate() {
        let colour = Palette99::pick(i).to_rgba();
        let points = line.iter().map(|p| Circle::new(*p, 3, colour.filled())).collect::<Vec<_>>();
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(gateway.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        chart.draw_series(points)?;
    }
    chart.configure_series_labels().position(SeriesLabelPosition::LowerLeft).background_style(WHITE.mix(0.8)).draw()
}
