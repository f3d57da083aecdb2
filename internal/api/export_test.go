package api

// Codes returns every error code that can be answered.
func Codes() []string {
	var codes []string
	for code := range meanings {
		codes = append(codes, string(code))
	}
	return codes
}
