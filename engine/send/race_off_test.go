//go:build !race

package send_test

const raceDetector = false
