package meter

var ServerTime = serverTime
