// Package report is what a person sees of a run: plots, and the generated parts of docs/PERFORMANCE.md.
//
// It owns how figures look. It refuses to measure, and shows nothing but what the raw results say, in other units at most.
// In the page it writes between markers only,
//
//	<!-- bench:rows -->
//	…
//	<!-- /bench:rows -->
//
// so everything else is a person's. The same raw results give the same bytes, so a check can tell whether page and plots
// are what the raw results say, without a server.
package report
