// Healthy is a primary that takes writes. The first time, this also makes the replica set of one.
const password = require("fs").readFileSync("/run/secrets/mongodb-root-password", "utf8");
db.getSiblingDB("admin").auth("root", password);
try {
  rs.status();
} catch (error) {
  if (error.codeName !== "NotYetInitialized") throw error;
  rs.initiate({ _id: "gary", members: [{ _id: 0, host: "mongodb:27017" }] });
}
quit(db.hello().isWritablePrimary ? 0 : 1);
