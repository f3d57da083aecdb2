package ledger

import "strings"

// Currency is an active ISO 4217 alphabetic code, upper case. ParseCurrency makes one from untrusted text.
type Currency string

// ParseCurrency checks that text is an active ISO 4217 code of a currency that is spent: funds codes, metals and test
// codes are not. The error is an *Error with code CodeInvalidCurrency.
func ParseCurrency(text string) (Currency, error) {
	if len(text) == 3 && strings.Contains(iso4217, " "+text+" ") {
		return Currency(text), nil
	}
	return "", &Error{Code: CodeInvalidCurrency, Message: "currency must be an ISO 4217 code such as USD, in capitals"}
}

// iso4217 lists the active codes of ISO 4217 (list one, 2026-01-01) without funds codes, bond units, precious metals and
// the codes reserved for testing and for "no currency". Each code stands between two spaces.
const iso4217 = " AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD " +
	"CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD " +
	"HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD " +
	"MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG " +
	"QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS " +
	"UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG "
