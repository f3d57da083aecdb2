package report

import (
	"fmt"
	"math"

	"github.com/dustin/go-humanize"
)

// number is a figure with three digits that count, or all before the point; a whole number is shown as one.
func number(x float64) string {
	switch size := math.Abs(x); {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return "–"
	case x == math.Trunc(x), size >= 99.95:
		return humanize.Comma(int64(math.Round(x)))
	case size >= 9.995:
		return fmt.Sprintf("%.1f", x)
	case size >= 0.0995:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.3g", x)
	}
}

// measured is number, or a dash for what was not measured.
func measured(x float64) string {
	if x == 0 {
		return "–"
	}
	return number(x)
}

// short is a round number on an axis.
func short(x float64) string {
	switch {
	case x >= 1e6:
		return fmt.Sprintf("%.4g M", x/1e6)
	case x >= 1e4:
		return fmt.Sprintf("%.4g k", x/1e3)
	default:
		return humanize.Commaf(math.Round(1000*x) / 1000)
	}
}
