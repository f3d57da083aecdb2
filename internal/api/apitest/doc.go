// Package apitest is what tests of Saldo's HTTP face share, whatever stands behind it: the table of bad inputs, and a
// check of responses against openapi.yaml. Only tests import it.
package apitest
